"""Code that runs inside Triton's Python backend; it imports nothing but NumPy, OpenVINO and what is beside it."""
