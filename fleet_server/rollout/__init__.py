"""The pure part of rollouts: who is in which wave, what the evidence says, what happens next. No I/O, no clock."""
