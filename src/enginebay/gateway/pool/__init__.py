"""Several replicas that serve one version of a model as if they were one."""
