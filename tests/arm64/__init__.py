"""The suite on the instruction set of the boards: aarch64 binaries under emulation."""
