"""Making, placing and updating learned input filters, offline."""
