//! entra-pool
