"""What a model is, measured: input sizes, stretches, weight norms, and the changes by updates.

These modules run the model, so they need torch; nothing else of the compiler imports them before a
model is to be measured.
"""
