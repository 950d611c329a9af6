"""The compiled data plane, without a node."""
