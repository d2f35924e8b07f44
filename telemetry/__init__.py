"""What a run costs: clock, latency histograms, ledger."""
