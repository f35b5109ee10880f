"""Writing to and reading from the cells of one batch element.

    M_t = M prod_h (1 - ww_h e_h^T) + sum_h ww_h v_h^T;  r_r = wr_r M_t

Shapes: memory (N, W), write_weights (Hw, N), erase_vectors and write_vectors (Hw, W),
read_weights (R, N), read_vectors (R, W).
"""

from __future__ import annotations

from .compile import kernel


@kernel
def write_memory(memory, write_weights, erase_vectors, write_vectors, new_memory):
    """Fill new_memory."""
    one = memory.dtype.type(1)
    Hw, W = erase_vectors.shape
    for n in range(memory.shape[0]):
        row, new_row = memory[n], new_memory[n]
        for w in range(W):
            new_row[w] = row[w]
        for head in range(Hw):
            weight, erase = write_weights[head, n], erase_vectors[head]
            for w in range(W):
                new_row[w] *= one - weight * erase[w]
        for head in range(Hw):
            weight, vector = write_weights[head, n], write_vectors[head]
            for w in range(W):
                new_row[w] += weight * vector[w]


@kernel
def write_memory_backward(
    memory,
    write_weights,
    erase_vectors,
    write_vectors,
    d_memory,
    d_write_weights,
    d_erase_vectors,
    d_write_vectors,
    others,
):
    """d_memory goes from M_t to M_{t-1}; d_write_weights is added to; the other two are filled.

    With F_h = 1 - ww_h e_h and Q_h = dM M prod over the other heads of F:
    dv_h = dM^T ww_h;  de_h = -Q_h^T ww_h;  dww_h = dM v_h - Q_h e_h;  dM becomes dM prod_h F_h.
    others (W) is room for a row of Q.
    """
    zero = memory.dtype.type(0)
    one = memory.dtype.type(1)
    Hw, W = erase_vectors.shape
    for head in range(Hw):
        for w in range(W):
            d_erase_vectors[head, w] = zero
        for w in range(W):
            d_write_vectors[head, w] = zero
    for n in range(memory.shape[0]):
        row, gradient = memory[n], d_memory[n]
        for head in range(Hw):
            weight = write_weights[head, n]
            erase, vector = erase_vectors[head], write_vectors[head]
            d_erase, d_vector = d_erase_vectors[head], d_write_vectors[head]
            for w in range(W):
                others[w] = gradient[w] * row[w]
            for other in range(Hw):
                if other != head:
                    for w in range(W):
                        others[w] *= one - write_weights[other, n] * erase_vectors[other, w]
            total = zero
            for w in range(W):
                total += gradient[w] * vector[w] - others[w] * erase[w]
            for w in range(W):
                d_vector[w] += weight * gradient[w]
            for w in range(W):
                d_erase[w] -= weight * others[w]
            d_write_weights[head, n] += total
        for head in range(Hw):
            weight, erase = write_weights[head, n], erase_vectors[head]
            for w in range(W):
                gradient[w] *= one - weight * erase[w]


@kernel
def read_memory(memory, read_weights, read_vectors):
    """Fill read_vectors."""
    for r in range(read_vectors.shape[0]):
        for w in range(read_vectors.shape[1]):
            read_vectors[r, w] = memory.dtype.type(0)
    for n in range(memory.shape[0]):
        row = memory[n]
        for r in range(read_weights.shape[0]):
            weight, vector = read_weights[r, n], read_vectors[r]
            for w in range(row.shape[0]):
                vector[w] += weight * row[w]


@kernel
def read_memory_backward(d_read_vectors, memory, read_weights, d_memory, d_read_weights):
    """Add to d_memory and d_read_weights."""
    zero = memory.dtype.type(0)
    for n in range(memory.shape[0]):
        row, gradient = memory[n], d_memory[n]
        for r in range(read_weights.shape[0]):
            weight, d_vector = read_weights[r, n], d_read_vectors[r]
            total = zero
            for w in range(row.shape[0]):
                total += d_vector[w] * row[w]
            for w in range(row.shape[0]):
                gradient[w] += weight * d_vector[w]
            d_read_weights[r, n] += total
