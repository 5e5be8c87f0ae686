//! A recorder for tests.

use std::collections::BTreeMap;

use metrics::{LocalRecorderGuard, Unit};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

/// The metrics of this thread. A test's runtime runs on its thread.
pub(crate) struct Measured {
    snapshotter: Snapshotter,
    _here: LocalRecorderGuard<'static>,
}

/// Records the metrics of this thread from now on.
pub(crate) fn measure() -> Measured {
    let recorder = Box::leak(Box::new(DebuggingRecorder::new()));
    let snapshotter = recorder.snapshotter();
    Measured { snapshotter, _here: metrics::set_default_local_recorder(recorder) }
}

/// The values of each series: one for a counter or gauge, all of a histogram.
pub(crate) type Series = BTreeMap<String, Vec<f64>>;

impl Measured {
    /// The values since the last call, by `name{label=value,…}` with the labels in order. Counters
    /// that did not change are left out.
    pub(crate) fn since(&self) -> Series {
        let taken = self.snapshotter.snapshot().into_vec().into_iter().map(|entry| {
            let (key, _, _, value) = entry;
            let mut labels: Vec<_> = key
                .key()
                .labels()
                .map(|label| format!("{}={}", label.key(), label.value()))
                .collect();
            labels.sort();
            let values = match value {
                DebugValue::Counter(0) => vec![],
                #[allow(clippy::cast_precision_loss)]
                DebugValue::Counter(count) => vec![count as f64],
                DebugValue::Gauge(value) => vec![value.0],
                DebugValue::Histogram(values) => values.into_iter().map(|value| value.0).collect(),
            };
            (format!("{}{{{}}}", key.key().name(), labels.join(",")), values)
        });
        taken.filter(|(_, values)| !values.is_empty()).collect()
    }

    /// Unit and description of each metric that has been recorded.
    pub(crate) fn described(&self) -> BTreeMap<String, (Option<Unit>, Option<String>)> {
        let taken = self.snapshotter.snapshot().into_vec().into_iter();
        taken
            .map(|(key, unit, description, _)| {
                (key.key().name().to_owned(), (unit, description.map(|text| text.to_string())))
            })
            .collect()
    }
}

/// The names of `series`, with their labels.
pub(crate) fn names(series: &Series) -> Vec<&str> {
    series.keys().map(String::as_str).collect()
}
