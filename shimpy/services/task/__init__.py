"""containerd's Task API for any transport, containerd.task.v2.Task and .v3.Task alike."""
