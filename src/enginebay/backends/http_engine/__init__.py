"""What all engines behind an HTTP server share: one backend; what differs between them is an `EngineApi`."""
