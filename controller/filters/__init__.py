"""May this pod run on that node: kube-scheduler's filters, as functions of values."""
