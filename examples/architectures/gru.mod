# A GRU that reads a sequence and scores it at its end.
param hidden = 32
param classes = 10

input x: float[batch, seq, 16]

model Reader = Bias @ Linear(classes) @ Last @ GRU(hidden)
