"""What `holdfast up` needs on one machine: embedded servers, child processes, the screen."""
