"""What a shim does, whatever protocol it is asked by: no protocol and no protobuf in here."""
