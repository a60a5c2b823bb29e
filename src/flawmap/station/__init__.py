"""The inspection station: a service, a record of every part, and a watched folder. Beside `benchmark` in the layers."""
