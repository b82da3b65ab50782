"""What quoted figures are measured with. Each script also measures its baseline in the same run."""
