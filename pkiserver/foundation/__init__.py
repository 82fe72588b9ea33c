"""What every room stands on: errors, time, secrets, TOML with positions. Imports nothing of ours."""
