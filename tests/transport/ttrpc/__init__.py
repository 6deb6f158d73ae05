"""ttrpc: frames, envelopes, the server and the client."""
