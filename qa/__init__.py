"""QA sweeps: scenarios that run real nodes, in network namespaces or in containers, and say whether they did well."""
