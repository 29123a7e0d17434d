"""Programs: a case file in, numbers and pictures out."""
