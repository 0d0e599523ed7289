"""Code that runs inside MLServer; it imports nothing but MLServer and OpenVINO."""
