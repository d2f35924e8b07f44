"""What a model means: records, bundles, evidence, calibration, fusion, measures."""
