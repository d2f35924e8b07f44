"""The whole device under faults: killed, its broker, worker and link lost, its clock stepped."""
