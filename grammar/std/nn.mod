# Small pieces that most networks need. Those with a capital letter are there without an import.

# Mean subtraction, then division by the root mean square: layer norm without a gain and a bias.
def Standardize(dim = -1, eps = 1e-12) = RMSDivide(dim, eps) @ MeanSubtract(dim)

# The two usual nonlinearities, scaled so that their declared sensitivity is 1.
def ScaledReLU = sqrt(2) * ReLU
def ScaledGELU = sqrt(2) * GELU

# One of n residual branches: n of them in a row keep sensitivity 1 if f has it.
def residual(f, n) = (1 - 1/n) * Identity + 1/n * f

# A stack of `depth` hidden layers with a nonlinearity.
def mlp(width, depth, out, f = sqrt(2) * ReLU) = Linear(out) @ (f @ Linear(width)) ** depth

# torch.nn's normalisations, with a gain and a bias for each channel unless `affine = false` (but for
# RMSNorm's eps, which is Llama's: torch's own follows from the type of its numbers):
# over channels, over channels without mean and bias, over groups of channels with all their pixels,
# and over the batch.
def LayerNorm(dim = -1, eps = 1e-5, affine = true) =
    Bias @ Scale @ Standardize(dim, eps) if affine else Standardize(dim, eps)
def RMSNorm(dim = -1, eps = 1e-5, affine = true) =
    Scale @ RMSDivide(dim, eps) if affine else RMSDivide(dim, eps)
def GroupNorm(groups, affine = true, eps = 1e-5) =
    Bias @ Scale @ GroupStandardize(groups, eps) if affine else GroupStandardize(groups, eps)
def BatchNorm(momentum = 0.1, affine = true, eps = 1e-5) =
    Bias @ Scale @ BatchStandardize(momentum = momentum, eps = eps) if affine
    else BatchStandardize(momentum = momentum, eps = eps)

# torch.nn's recurrences over values (batch, seq, d), which give the states of all steps; `Last` takes
# the last. `carry` is how far a state is declared to move with the one before: for gates of 1/2 that
# is 3/4, a memory of 4 steps. Of two biases that torch adds up there is one.
def RNN(hidden, carry = 1, f = Tanh) = Scan(cell, carry = carry) @ entry
  where
    entry = Bias @ Linear(hidden)
    cell = f @ (Linear(hidden) @ Select(0) + Select(1))

def GRU(hidden, carry = 3/4) = Scan(cell, carry = carry) @ (entry_r, entry_z, entry_n)
  where
    entry_r = Bias @ Linear(hidden)
    entry_z = Bias @ Linear(hidden)
    entry_n = Bias @ Linear(hidden)
    r = Sigmoid @ (Linear(hidden) @ Select(0) + Select(0) @ Select(1))
    z = Sigmoid @ (Linear(hidden) @ Select(0) + Select(1) @ Select(1))
    n = Tanh @ (r * (Bias @ Linear(hidden) @ Select(0)) + Select(2) @ Select(1))
    cell = Lerp @ (n, Select(0), z)

# Its state is a tuple (h, c), of which it gives h.
def LSTM(hidden, carry = 3/4) = Select(0) @ Scan(cell, carry = carry) @ entries
  where
    entry_i = Bias @ Linear(hidden)
    entry_f = Bias @ Linear(hidden)
    entry_g = Bias @ Linear(hidden)
    entry_o = Bias @ Linear(hidden)
    entries = (entry_i, entry_f, entry_g, entry_o)
    i = Sigmoid @ (Linear(hidden) @ Select(0) @ Select(0) + Select(0) @ Select(1))
    f = Sigmoid @ (Linear(hidden) @ Select(0) @ Select(0) + Select(1) @ Select(1))
    g = Tanh @ (Linear(hidden) @ Select(0) @ Select(0) + Select(2) @ Select(1))
    o = Sigmoid @ (Linear(hidden) @ Select(0) @ Select(0) + Select(3) @ Select(1))
    c = f * (Select(1) @ Select(0)) + i * g
    cell = (Select(0) * (Tanh @ Select(1)), Select(1)) @ (o, c)
