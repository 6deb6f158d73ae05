"""How bytes come in: the listening socket, strict decoding, gRPC and ttrpc."""
