"""MLPerf LoadGen's scenarios over a bundle: how the field measures what a device serves."""
