"""What the HTTP service is measured and fuzzed with."""
