//! Getting a fresh token from the cache: from one task, and from 64 tasks.
#![allow(missing_docs, clippy::disallowed_methods)]

use std::{
    hint::black_box,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use entra_pool::token::{
    CredentialError, Identity, Scope, Token, TokenCache, TokenCredential, TokenRequest,
};
use tokio::runtime::Runtime;

#[derive(Debug)]
struct OneDayCredential;

#[async_trait]
impl TokenCredential for OneDayCredential {
    fn name(&self) -> String {
        "the bench".into()
    }

    async fn get_token(&self, _: TokenRequest) -> Result<Token, CredentialError> {
        Ok(Token::new("t".repeat(2_000), SystemTime::now() + Duration::from_secs(86_400)))
    }
}

fn filled(runtime: &Runtime) -> TokenCache {
    let cache = Identity::new(OneDayCredential).tokens(Scope::AZURE_SQL);
    runtime.block_on(cache.warm_up()).unwrap();
    cache
}

fn hit(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cache = filled(&runtime);
    criterion.bench_function("hit", |bencher| {
        bencher.to_async(&runtime).iter(|| async { black_box(cache.token().await) });
    });
}

fn hit_from_64_tasks(criterion: &mut Criterion) {
    const CALLS: u64 = 1_000;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let cache = filled(&runtime);
    let mut group = criterion.benchmark_group("64 tasks on 2 threads");
    group.throughput(Throughput::Elements(64 * CALLS));
    group.bench_function("hit", |bencher| {
        bencher.to_async(&runtime).iter(|| async {
            let tasks: Vec<_> = (0..64)
                .map(|_| {
                    let cache = cache.clone();
                    tokio::spawn(async move {
                        for _ in 0..CALLS {
                            black_box(cache.token().await.unwrap());
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
    });
}

criterion_group!(benches, hit, hit_from_64_tasks);
criterion_main!(benches);
