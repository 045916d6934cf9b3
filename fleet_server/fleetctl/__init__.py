"""`fleetctl`: the operator, release engineer and technician at the command line."""
