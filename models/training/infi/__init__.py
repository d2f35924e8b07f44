"""Learning input filters: feature nets, skip and reuse heads, and how they are taught."""
