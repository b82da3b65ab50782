"""How good answers and their evidence are, as numbers: measures, runs that survive, reports."""
