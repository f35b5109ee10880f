"""What is made of results: comparisons, fits, plots and tables. Nothing here measures."""
