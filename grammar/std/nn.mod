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
def BatchNorm(affine = true, momentum = 0.1, eps = 1e-5) =
    Bias @ Scale @ BatchStandardize(momentum = momentum, eps = eps) if affine
    else BatchStandardize(momentum = momentum, eps = eps)
