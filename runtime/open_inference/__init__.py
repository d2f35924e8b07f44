"""Models that another server runs: any that speaks the Open Inference Protocol, version 2.

https://github.com/open-inference/open-inference-protocol; Triton, MLServer, KServe and others
do, over HTTP with JSON (the standard library is enough) or over gRPC (the extra ``oip``).
"""
