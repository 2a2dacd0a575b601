# Small pieces that most networks need.

# Mean subtraction, then division by the root mean square: layer norm without a gain.
def LayerNorm(dim = -1, eps = 1e-12) = RMSDivide(dim, eps) @ MeanSubtract(dim)

# The two usual nonlinearities, scaled so that their declared sensitivity is 1.
def ScaledReLU = sqrt(2) * ReLU
def ScaledGELU = sqrt(2) * GELU

# One of n residual branches: n of them in a row keep sensitivity 1 if f has it.
def residual(f, n) = (1 - 1/n) * Identity + 1/n * f

# A stack of `depth` hidden layers with a nonlinearity.
def mlp(width, depth, out, f = sqrt(2) * ReLU) = Linear(out) @ (f @ Linear(width)) ** depth
