# Variational autoencoder: the noise is an input, and mean and log-variance come out beside the
# reconstruction, for the loss.
param pixels = 784
param hidden = 400
param code = 20

input x: float[batch, pixels]
input noise: float[batch, code]

def linear(n) = Bias @ Linear(n)
def decode = linear(pixels) @ ReLU @ linear(hidden)

shared features = ReLU @ linear(hidden) @ x
shared mean = linear(code) @ features
shared logvar = linear(code) @ features

model VAE = (reconstruction = decode @ (mean + noise * (Exp @ (1/2 * logvar))),
  mean = mean, logvar = logvar)
