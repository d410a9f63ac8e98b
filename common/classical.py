"""The strongest quantiser that we know without a neural network: predictive multi-stage VQ.

Blocks of `dec` frames, minus their mean, are turned by a KLT into vectors u[t].  A linear
prediction from the decoded vector before is subtracted, the rest is quantised in stages: u_hat[t] =
u_hat[t − 1] @ predictor + one codeword per stage.  A linear least-squares smoother makes the frames
of a block of its vector and the vectors next to it.  There are no gradients: the predictor and the
smoother are ridge regressions, the codebooks k-means, on vectors that were coded in closed loop.

Units: frames float32 [n][K] in dB; the KLT is orthonormal, so errors of u are in dB, too.
"""

import math

import numpy as np

DIM = 48  # vectors have this many values at most; bits for more of them would be wasted
CHAIN = 100  # blocks that are coded one after the other in training
BLOCKS = 40_000  # that each round of the training sees
KMEANS = 6  # passes of k-means for each stage of the first codebooks
ROUNDS = 8  # of coding, fitting the predictor and the codebooks
JOINT = 3  # passes over the stages in each round
PATHS = 4  # that the search in training keeps
M_BEST = 8  # partial sums, of all paths together, that it carries from stage to stage
PRIOR = 5  # vectors that an old codeword counts as in the first round, twice that in the second …
QUIET = 0.02  # weight of a block without counted frames
NEIGHBOURS = 1  # blocks each side that the smoother looks at
LARGEST_GROWTH = 0.98  # of an error of the predictor, per vector; smaller with enough speech
RIDGE = 1e-3  # share of the mean variance that is added to the diagonal of a regression


# ---------------------------------------------------------------- the coder


def encode(frames, arrays):
    """Vectors [b][v][dim] of frames [b][v · dec][K]."""
    mean, klt = arrays["mean"], arrays["klt"]
    b, n, K = frames.shape
    return (frames - mean).reshape(b, n * K // len(klt), len(klt)) @ klt


def decode(z, arrays):
    """Frames [b][v · dec][K] of vectors z [b][v][dim]; the outer vectors are repeated."""
    mean, smoother = arrays["mean"], arrays["smoother"]
    (b, v, _), side = z.shape, len(smoother) // 2
    padded = np.pad(z, ((0, 0), (side, side), (0, 0)), "edge")
    blocks = sum(padded[:, i : i + v] @ matrix for i, matrix in enumerate(smoother))
    return blocks.reshape(b, -1, len(mean)) + mean


def unpack(arrays):
    """Float32 arrays of those in an archive: mean [K], klt [dec · K][dim], predictor [dim][dim],
    codebooks [stages][M][dim], smoother [blocks][dim][dec · K]."""
    names = ("mean", "klt", "predictor", "smoother")
    unpacked = {name: np.float32(arrays[f"classical_{name}"]) for name in names}
    codebooks, scale = arrays["classical_codebooks"], np.float32(arrays["classical_scale"])
    return {**unpacked, "codebooks": codebooks * scale[:, None]}


def pack(mean, klt, predictor, codebooks, smoother):
    """What unpack() takes: codewords in 8 bits, with one scale per stage and dimension."""
    scale = np.abs(codebooks).max(axis=1) / 127 + 1e-9
    arrays = {"mean": mean, "klt": klt, "predictor": predictor, "smoother": smoother}
    arrays = {f"classical_{name}": np.float16(values) for name, values in arrays.items()}
    rounded = np.int8(np.rint(codebooks / scale[:, None]))
    return {**arrays, "classical_codebooks": rounded, "classical_scale": np.float32(scale)}


# ---------------------------------------------------------------- training


def train(x, counted, dec, stages, M, rng, filtered=None, report=print):
    """Arrays of a quantiser, for an archive, from frames x [n][K] of which `counted` [n] count.

    filtered(chunks [n][frames][K], rng) returns these as other microphones would have recorded
    them; half of the training speech is filtered.
    """
    K, chain = x.shape[1], min(CHAIN, len(x) // dec)
    length = chain * dec
    n = len(x) // length
    chunks, weight = x[: n * length].reshape(n, length, K), counted[: n * length].reshape(n, length)
    share = weight.mean(axis=1)
    keep = share >= min(0.25, share.max())
    chunks, weight = chunks[keep], weight[keep]
    if filtered is not None:
        chunks = np.concatenate([chunks, filtered(chunks, rng)])
        weight = np.concatenate([weight, weight])
    mean = np.average(chunks.reshape(-1, K), axis=0, weights=weight.ravel()).astype(np.float32)
    v = (chunks - mean).reshape(len(chunks), chain, dec * K)  # [chains][blocks][dec · K]
    weight = weight.reshape(len(chunks), chain, dec).mean(axis=2).astype(np.float32)
    weight = np.maximum(weight, QUIET)

    flat, w = v.reshape(-1, dec * K), weight.reshape(-1, 1)
    klt = np.linalg.eigh((flat * w).T @ flat)[1][:, ::-1][:, :DIM].astype(np.float32)
    klt = np.float32(np.float16(klt))
    mean = np.float32(np.float16(mean))
    u = v @ klt  # [chains][blocks][dim]
    predictor = stable(regression(u[:, :-1], u[:, 1:], weight[:, 1:]))
    r = (u[:, 1:] - u[:, :-1] @ predictor).reshape(-1, u.shape[2])
    share = weight[:, 1:].ravel() / weight[:, 1:].sum()
    some = rng.choice(len(r), min(BLOCKS, len(r)), False, share)
    codebooks = kmeans_stages(r[some], stages, M, rng)
    for number in range(ROUNDS):
        chains = rng.permutation(len(u))[: BLOCKS // CHAIN]
        target, w = u[chains], weight[chains]
        indices, u_hat = code(target, w, codebooks, predictor)
        sd = np.average(((target - u_hat)[:, 5:] ** 2).sum(axis=2), weights=w[:, 5:]) / (dec * K)
        report(f"classical round {number + 1}: {sd:.2f} dB²")
        predictor = stable(regression(u_hat[:, :-1], target[:, 1:], w[:, 1:]))
        r = target[:, 1:] - u_hat[:, :-1] @ predictor
        prior = PRIOR * (number + 1)
        codebooks = update(r, indices[:, 1:], w[:, 1:], codebooks, prior, rng)
    predictor = np.float32(np.float16(predictor))
    arrays = pack(mean, klt, predictor, codebooks, np.zeros(0))
    chains = rng.permutation(len(u))[: BLOCKS // CHAIN]
    _, u_hat = code(u[chains], weight[chains], unpack(arrays)["codebooks"], predictor)
    smoother = fit_smoother(u_hat, v[chains], weight[chains])
    return pack(mean, klt, predictor, codebooks, smoother)


def regression(inputs, targets, weight):
    """Matrix [in][out] of the ridge regression of targets [...][out] from inputs [...][in]."""
    x, y = (values.reshape(-1, values.shape[-1]) for values in (inputs, targets))
    w = weight.reshape(-1, 1)
    power = np.float64((x * w).T @ x)
    ridge = RIDGE * np.trace(power) / len(power) * np.eye(len(power))
    return np.float32(np.linalg.solve(power + ridge, (x * w).T @ y))


def stable(predictor):
    """The predictor [dim][dim], smaller where errors would grow from vector to vector: with little
    speech."""
    growth = np.abs(np.linalg.eigvals(predictor)).max()
    return predictor * np.float32(min(1, LARGEST_GROWTH / growth))


def fit_smoother(u_hat, v, weight):
    """Matrices [blocks][dim][dec · K] from coded vectors to the block in their middle."""
    n = u_hat.shape[1] - 2 * NEIGHBOURS
    inputs = np.concatenate([u_hat[:, i : i + n] for i in range(2 * NEIGHBOURS + 1)], axis=2)
    inside = slice(NEIGHBOURS, NEIGHBOURS + n)
    matrix = regression(inputs[:, 4:], v[:, inside][:, 4:], weight[:, inside][:, 4:])
    return matrix.reshape(2 * NEIGHBOURS + 1, -1, v.shape[2])


def nearest(x, codebook, block=8192):
    """Number [n] of the codeword nearest to each x [n][dim]."""
    power = (codebook**2).sum(axis=1) / 2
    parts = [x[i : i + block] @ codebook.T - power for i in range(0, len(x), block)]
    return np.concatenate([part.argmax(axis=1) for part in parts])


def means(x, index, weight, old, prior):
    """Codewords [M][dim]: the weighted mean of the x [n][dim] with each index and of the old one,
    which counts as `prior` vectors."""
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
        for _ in range(KMEANS):
            codebook = means(x, nearest(x, codebook), np.ones(len(x), np.float32), codebook, 1)
        codebooks.append(codebook)
        x = x - codebook[nearest(x, codebook)]
    return np.stack(codebooks)


def update(r, indices, weight, codebooks, prior, rng):
    """Codebooks that fit residuals r [chains][blocks][dim] coded as indices better, in passes over
    the stages; codewords that are hardly used move next to others."""
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
        spread = np.sqrt(np.average(error**2, axis=0, weights=weight))
        noise = rng.normal(0, 0.5, (len(rare), dim)) * spread
        codebooks[stage][rare] = codebooks[stage][often[: len(rare)]] + np.float32(noise)
    return codebooks


def code(u, weight, codebooks, predictor, paths=PATHS, m_best=M_BEST):
    """Indices [chains][blocks][stages] and vectors u_hat [chains][blocks][dim] for u, by an
    M-algorithm over all chains at once; the cost of a path is its weighted squared error."""
    chains, blocks, dim = u.shape
    stages, M, _ = codebooks.shape
    power = (codebooks**2).sum(axis=2, keepdims=True)
    columns = np.concatenate([codebooks, power, np.ones_like(power)], axis=2).transpose(0, 2, 1)
    u_hat, cost = np.zeros((chains, 1, dim), np.float32), np.zeros((chains, 1), np.float32)
    history = []
    for t in range(blocks):
        residual = u[:, None, t] - u_hat @ predictor
        w = weight[:, t, None]
        base, parent = cost / w, np.tile(np.arange(u_hat.shape[1]), (chains, 1))
        indices = np.zeros((*parent.shape, 0), np.int32)
        for stage in range(stages):
            power = np.take_along_axis(base, parent, 1) + (residual**2).sum(axis=2)
            power = power[..., None]
            rows = np.concatenate([-2 * residual, np.ones_like(power), power], axis=2)
            scores = (rows.reshape(-1, dim + 2) @ columns[stage]).reshape(chains, -1)
            best, score = smallest(scores, paths if stage + 1 == stages else m_best)
            row, index = best // M, best % M
            parent = np.take_along_axis(parent, row, 1)
            residual = np.take_along_axis(residual, row[..., None], 1) - codebooks[stage][index]
            indices = np.take_along_axis(indices, row[..., None], 1)
            indices = np.concatenate([indices, np.int32(index)[..., None]], axis=2)
        u_hat = u[:, None, t] - residual
        cost = (score - score[:, :1]) * w
        history.append((parent, indices, u_hat))
    best, result = np.zeros(chains, int), []
    for parent, indices, u_hat in reversed(history):
        every = np.arange(chains)
        result.append((indices[every, best], u_hat[every, best]))
        best = parent[every, best]
    indices, u_hat = zip(*reversed(result), strict=True)
    return np.stack(indices, axis=1), np.stack(u_hat, axis=1)


def smallest(scores, k):
    """Numbers [n][k] and values of the k smallest of scores [n][N], the smallest first."""
    n, N = scores.shape
    k, size = min(k, N), math.gcd(N, 32)
    groups = scores.reshape(n, size, N // size)
    k_groups = min(k, N // size)
    best = np.argpartition(groups.min(axis=1), k_groups - 1, axis=1)[:, :k_groups]
    number = (np.arange(size)[:, None] * (N // size) + best[:, None, :]).reshape(n, -1)
    members = np.take_along_axis(scores, number, axis=1)
    some = np.argpartition(members, k - 1, axis=1)[:, :k]
    values = np.take_along_axis(members, some, axis=1)
    order = np.argsort(values, axis=1)
    number = np.take_along_axis(np.take_along_axis(number, some, 1), order, 1)
    return number, np.take_along_axis(values, order, 1)
