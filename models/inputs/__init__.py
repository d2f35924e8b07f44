"""From what a source captures to the sample that a model was taught on."""
