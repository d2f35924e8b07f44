"""Events: what many outcomes mean together, from when until when."""
