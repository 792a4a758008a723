"""One folder per simulated exchange product; `simulator.venue` finds them. Runs in the simulator process."""
