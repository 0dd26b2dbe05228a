"""YAML to frozen, strict models; portable engine settings; JSON Schema."""
