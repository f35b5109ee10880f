"""How anything is measured: sizes, providers, what is called, the gate before it, the clock."""
