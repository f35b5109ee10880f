"""How everything is measured: sizes, providers, cases, the accuracy check, the clock, the jobs."""
