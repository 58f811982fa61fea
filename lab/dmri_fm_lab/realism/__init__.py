"""How far simulated training patches are from real scans of four vendors."""
