"""The strongest quantiser that we know without a neural network: predictive multi-stage VQ.

Blocks of `dec` frames, minus the mean frame, become vectors u[t] by a KLT.  What a matrix predicts
from the decoded vector before is subtracted, and the rest is quantised in stages: u_hat[t] =
u_hat[t − 1] @ predictor + one codeword per stage.  A linear smoother computes the frames of a block
from its vector and the two beside it.  Nothing is trained by gradients: predictor and smoother are
ridge regressions, the codebooks k-means, on vectors coded in closed loop.  Its sender and receiver
are in common/search.py.

Units: frames float32 [n][K] in dB; the KLT is orthonormal, so errors of u are in dB, too.
"""

import math

import numpy as np

DIM = 48  # vectors have this many values at most; bits for more of them would be wasted
CHAIN = 100  # blocks that are coded one after the other in training
BLOCKS = 40_000  # that each round of the training sees
KMEANS_PASSES = 6  # passes of k-means for each stage of the first codebooks
ROUNDS = 8  # of coding, fitting the predictor and the codebooks
JOINT = 3  # passes over the stages in each round
PATHS = 4  # that the search in training keeps
M_BEST = 8  # partial sums, of all paths together, that it carries from stage to stage
PRIOR = 5  # vectors that an old codeword counts as in the first round, twice that in the second …
QUIET = 0.02  # weight of a block without counted frames
LARGEST_GROWTH = 0.98  # of an error of the predictor, per vector; smaller with enough speech
SPOKEN = 0.25  # share of the frames of a chain that must count
SIDE = 1  # blocks each side that the smoother looks at
AT_ONCE = 8192  # vectors whose distances to all codewords are in memory
START = 5  # blocks of a chain that figures and smoother leave out, as nothing was coded before
RIDGE = 1e-3  # share of the mean variance that is added to the diagonal of a regression


# ---------------------------------------------------------------- the coder


def encode(frames, mean, klt):
    """Vectors [b][v][dim] of frames [b][v · dec][K]."""
    return (frames - mean).reshape(len(frames), -1, len(klt)) @ klt


def decode(z, mean, smoother):
    """Frames [b][v · dec][K] of vectors z [b][v][dim]; the outer vectors are repeated."""
    v, side = z.shape[1], len(smoother) // 2
    padded = np.pad(z, ((0, 0), (side, side), (0, 0)), "edge")
    blocks = sum(padded[:, i : i + v] @ matrix for i, matrix in enumerate(smoother))
    return blocks.reshape(len(z), -1, len(mean)) + mean


def pack(codebooks, **arrays):
    """Arrays for an archive; codewords in 8 bits with one scale per stage and dimension."""
    arrays = {f"classical_{name}": np.float16(values) for name, values in arrays.items()}
    in_8_bits, scale = round_to_8_bits(codebooks)
    return {**arrays, "classical_codebooks": in_8_bits, "classical_scale": scale}


def round_to_8_bits(codebooks):
    """Codebooks [stages][M][dim] as int8, and the value of one unit, float32 [stages][dim]."""
    scale = np.float32(np.abs(codebooks).max(axis=1) / 127 + 1e-9)
    return np.int8(np.rint(codebooks / scale[:, None])), scale


def unpack(arrays):
    """Float32 arrays of those in an archive: mean [K], klt [dec · K][dim], predictor and expected
    [dim][dim], smoother [blocks][dim][dec · K], codebooks [stages][M][dim].
    """
    names = ("mean", "klt", "predictor", "smoother")
    unpacked = {name: np.float32(arrays[f"classical_{name}"]) for name in names}
    nothing_lost = np.eye(len(unpacked["predictor"]))  # older archives have no array for it
    unpacked["expected"] = np.float32(arrays.get("classical_expected", nothing_lost))
    scale = np.float32(arrays["classical_scale"])[:, None]
    return {**unpacked, "codebooks": arrays["classical_codebooks"] * scale}


# ---------------------------------------------------------------- training


def train(x, counted, dec, stages, M, rng, filtered=None, report=print):
    """Arrays of a quantiser, for an archive, from frames x [n][K], of which `counted` [n] count.

    filtered(chunks [n][frames][K], rng) returns them as other microphones would have recorded them;
    half of what is trained on is filtered.  report(line) tells how far it is.
    """
    K, chain = x.shape[1], min(CHAIN, len(x) // dec)
    length = chain * dec
    n = len(x) // length
    chunks, counts = x[: n * length].reshape(n, length, K), counted[: n * length].reshape(n, length)
    share = counts.mean(axis=1)
    spoken = share >= min(SPOKEN, share.max())
    chunks, counts = chunks[spoken], counts[spoken]
    if filtered is not None:
        chunks, counts = np.concatenate([chunks, filtered(chunks, rng)]), np.tile(counts, (2, 1))
    mean = np.average(chunks.reshape(-1, K), axis=0, weights=counts.ravel())
    mean = rounded(mean)
    v = (chunks - mean).reshape(len(chunks), chain, dec * K)  # [chains][blocks][dec · K]
    weight = np.float32(counts.reshape(len(chunks), chain, dec).mean(axis=2))
    weight = np.maximum(weight, QUIET)

    flat = v.reshape(-1, dec * K)
    directions = np.linalg.eigh((flat * weight.reshape(-1, 1)).T @ flat)[1]
    klt = rounded(directions[:, ::-1][:, :DIM])  # the largest variance first
    u = v @ klt  # [chains][blocks][dim]
    predictor = stable(regression(u[:, :-1], u[:, 1:], weight[:, 1:]))
    rest = (u[:, 1:] - u[:, :-1] @ predictor).reshape(-1, u.shape[2])
    chance = weight[:, 1:].ravel() / weight[:, 1:].sum()
    some = rng.choice(len(rest), min(BLOCKS, len(rest)), replace=False, p=chance)
    codebooks = kmeans_stages(rest[some], stages, M, rng)
    for number in range(1, ROUNDS + 1):
        chains = rng.permutation(len(u))[: BLOCKS // CHAIN]
        target, w = u[chains], weight[chains]
        indices, u_hat = code(target, w, codebooks, predictor)
        error = ((target - u_hat)[:, START:] ** 2).sum(axis=2)
        sd = np.average(error, weights=w[:, START:]) / (dec * K)
        report(f"classical round {number} of {ROUNDS}: {sd:.2f} dB²")
        predictor = stable(regression(u_hat[:, :-1], target[:, 1:], w[:, 1:]))
        rest = target[:, 1:] - u_hat[:, :-1] @ predictor
        codebooks = update(rest, indices[:, 1:], w[:, 1:], codebooks, PRIOR * number, rng)
    arrays = {"mean": mean, "klt": klt, "predictor": rounded(predictor)}
    in_8_bits, scale = round_to_8_bits(codebooks)
    codebooks = in_8_bits * scale[:, None]  # those that the archive will hold
    chains = rng.permutation(len(u))[: BLOCKS // CHAIN]
    target, w = u[chains], weight[chains]
    _, u_hat = code(target, w, codebooks, arrays["predictor"])
    arrays["smoother"] = fit_smoother(u_hat, v[chains], w)
    arrays["expected"] = regression(target[:, START:], u_hat[:, START:], w[:, START:])
    return pack(codebooks, **arrays)


def rounded(values):
    """Float32 values as they are after a float16 array of an archive."""
    return np.float32(np.float16(values))


def regression(inputs, targets, weight):
    """Matrix [in][out] of the ridge regression of targets [...][out] from inputs [...][in]."""
    x, y = (values.reshape(-1, values.shape[-1]) for values in (inputs, targets))
    w = weight.reshape(-1, 1)
    power = np.float64((x * w).T @ x)
    ridge = RIDGE * np.trace(power) / len(power) * np.eye(len(power))
    return np.float32(np.linalg.solve(power + ridge, (x * w).T @ y))


def stable(predictor):
    """The predictor [dim][dim], made smaller where errors would grow from vector to vector.

    That happens with little speech only.
    """
    growth = np.abs(np.linalg.eigvals(predictor)).max()
    return predictor * np.float32(min(1, LARGEST_GROWTH / growth))


def fit_smoother(u_hat, v, weight):
    """Matrices [blocks][dim][dec · K] from coded vectors to the block in their middle."""
    n = u_hat.shape[1] - 2 * SIDE
    inputs = np.concatenate([u_hat[:, i : i + n] for i in range(2 * SIDE + 1)], axis=2)[:, START:]
    inside = slice(SIDE + START, SIDE + n)
    matrix = regression(inputs, v[:, inside], weight[:, inside])
    return matrix.reshape(2 * SIDE + 1, -1, v.shape[2])


def nearest(x, codebook):
    """Number [n] of the codeword nearest to each x [n][dim]."""
    power = (codebook**2).sum(axis=1) / 2
    parts = [x[i : i + AT_ONCE] @ codebook.T - power for i in range(0, len(x), AT_ONCE)]
    return np.concatenate([part.argmax(axis=1) for part in parts])


def means(x, index, weight, old, prior):
    """Codewords [M][dim]: the weighted mean of the x [n][dim] with each index and of the old one,
    which counts as `prior` vectors.

    x = 2 and 5, both with index 0, weights 1 and 2, an old codeword 0 and prior 1: 12 / 4 = 3.
    """
    total = np.full(len(old), prior, np.float32)
    total += np.bincount(index, weight, len(old)).astype(np.float32)
    order = np.argsort(index, kind="stable")
    sums = prior * old
    used, start = np.unique(index[order], return_index=True)
    sums[used] += np.add.reduceat((x * weight[:, None])[order], start, axis=0)
    return sums / total[:, None]


def kmeans_stages(x, stages, M, rng):
    """Codebooks [stages][M][dim] for x [n][dim]: k-means, each stage of the residuals so far."""
    codebooks = []
    for _ in range(stages):
        codebook = x[rng.choice(len(x), M, replace=len(x) < M)]
        for _ in range(KMEANS_PASSES):
            codebook = means(x, nearest(x, codebook), np.ones(len(x), np.float32), codebook, 1)
        codebooks.append(codebook)
        x = x - codebook[nearest(x, codebook)]
    return np.stack(codebooks)


def update(r, indices, weight, codebooks, prior, rng):
    """Codebooks that are nearer to r [chains][blocks][dim] coded as these indices, by passes over
    the stages.  Codewords that are hardly used move next to those used most.
    """
    stages, M, dim = codebooks.shape
    r, indices, weight = r.reshape(-1, dim), indices.reshape(-1, stages), weight.ravel()
    old, codebooks = codebooks, codebooks.copy()
    error = r - sum(codebooks[stage][indices[:, stage]] for stage in range(stages))
    for _ in range(JOINT):
        for stage in range(stages):
            index = indices[:, stage]
            error += codebooks[stage][index]
            codebooks[stage] = means(error, index, weight, old[stage], prior)
            error -= codebooks[stage][index]
    for stage in range(stages):
        used = np.bincount(indices[:, stage], weight, M)
        rare, often = np.flatnonzero(used < 0.1 * used.mean()), np.argsort(-used)
        deviation = np.sqrt(np.average(error**2, axis=0, weights=weight))
        noise = rng.normal(0, 0.5, (len(rare), dim)) * deviation
        codebooks[stage][rare] = codebooks[stage][often[: len(rare)]] + np.float32(noise)
    return codebooks


def code(u, weight, codebooks, predictor):
    """Indices [chains][blocks][stages] and vectors u_hat [chains][blocks][dim] for u, by an
    M-algorithm over all chains at once; the cost of a path is its weighted squared error.
    """
    chains, blocks, dim = u.shape
    stages, M, _ = codebooks.shape
    power = (codebooks**2).sum(axis=2, keepdims=True)
    columns = np.concatenate([codebooks, power, np.ones_like(power)], axis=2).transpose(0, 2, 1)
    u_hat, cost = np.zeros((chains, 1, dim), np.float32), np.zeros((chains, 1), np.float32)
    every = np.arange(chains)[:, None]
    history = []
    for t in range(blocks):
        residual = u[:, None, t] - u_hat @ predictor
        w = weight[:, t, None]
        base, parent = cost / w, np.tile(np.arange(u_hat.shape[1]), (chains, 1))
        indices = np.zeros((*parent.shape, 0), np.int32)
        for stage in range(stages):
            # cost + |r − c|² is the product of [−2r, 1, cost + |r|²] and [c, |c|², 1]
            power = (base[every, parent] + (residual**2).sum(axis=2))[..., None]
            rows = np.concatenate([-2 * residual, np.ones_like(power), power], axis=2)
            scores = (rows.reshape(-1, dim + 2) @ columns[stage]).reshape(chains, -1)
            best = smallest(scores, PATHS if stage + 1 == stages else M_BEST)
            score = scores[every, best]
            row, index = best // M, best % M
            parent, residual = parent[every, row], residual[every, row] - codebooks[stage][index]
            indices = np.concatenate([indices[every, row], np.int32(index)[..., None]], axis=2)
        u_hat = u[:, None, t] - residual
        cost = (score - score[:, :1]) * w
        history.append((parent, indices, u_hat))
    best, backwards = np.zeros(chains, int), []
    for parent, indices, u_hat in reversed(history):
        backwards.append((indices[every[:, 0], best], u_hat[every[:, 0], best]))
        best = parent[every[:, 0], best]
    indices, u_hat = zip(*reversed(backwards), strict=True)
    return np.stack(indices, axis=1), np.stack(u_hat, axis=1)


def smallest(scores, k):
    """Numbers [n][k] of the k smallest of scores [n][N], or of all, the smallest first.

    They are in the k groups of scores whose minima are the smallest.
    """
    n, N = scores.shape
    k, size = min(k, N), math.gcd(N, 32)
    minima = scores.reshape(n, size, N // size).min(axis=1)
    nb_groups = min(k, N // size)
    best = np.argpartition(minima, nb_groups - 1, axis=1)[:, None, :nb_groups]
    number = (np.arange(size)[:, None] * (N // size) + best).reshape(n, -1)
    row = np.arange(n)[:, None]
    number = number[row, np.argpartition(scores[row, number], k - 1, axis=1)[:, :k]]
    return number[row, np.argsort(scores[row, number], axis=1, kind="stable")]
