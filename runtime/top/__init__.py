"""`hedge top`: a running device on a terminal, over its own socket or over MQTT."""
