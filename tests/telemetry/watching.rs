//! A subscriber that collects the spans and events of a test.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, Once},
};

use tracing::{
    Event, Id, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Record},
};
use tracing_subscriber::{
    Layer,
    filter::Targets,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
    util::SubscriberInitExt,
};

thread_local! {
    /// Collects this thread's spans. A test's runtime runs on its thread.
    static WATCHED: RefCell<Option<Watched>> = const { RefCell::new(None) };
}

/// The spans that this thread created, in order.
#[derive(Clone, Default)]
pub(crate) struct Watched(Arc<Mutex<Vec<Seen>>>);

/// A span.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) name: &'static str,
    /// The name of the parent span.
    pub(crate) parent: Option<&'static str>,
    /// The names of the spans that it follows from.
    pub(crate) follows: Vec<&'static str>,
    pub(crate) fields: BTreeMap<&'static str, String>,
    /// The message and the fields of each event.
    pub(crate) events: Vec<BTreeMap<&'static str, String>>,
    pub(crate) closed: bool,
}

/// The place of a span in a collection.
struct Place(Watched, usize);

/// Collects the spans of the crate and of this test, and their events, from now on.
pub(crate) fn watch() -> Watched {
    // One subscriber for all threads: if subscribers change, `tracing` may miss that of a thread.
    static SUBSCRIBER: Once = Once::new();
    SUBSCRIBER.call_once(|| {
        let wanted = Targets::new()
            .with_target("entra_pool", tracing::Level::TRACE)
            .with_target("telemetry", tracing::Level::TRACE);
        tracing_subscriber::registry().with(ToThread.with_filter(wanted)).init();
    });
    let watched = Watched::default();
    WATCHED.set(Some(watched.clone()));
    watched
}

impl Watched {
    /// All spans with this name.
    pub(crate) fn named(&self, name: &str) -> Vec<Seen> {
        self.0.lock().unwrap().iter().filter(|span| span.name == name).cloned().collect()
    }

    /// The only span with this name.
    #[track_caller]
    pub(crate) fn one(&self, name: &str) -> Seen {
        let mut spans = self.named(name);
        assert_eq!(spans.len(), 1, "{name}: {spans:?}");
        spans.remove(0)
    }

    /// Everything that was collected, as text.
    pub(crate) fn text(&self) -> String {
        format!("{:?}", self.0.lock().unwrap())
    }
}

/// Passes the spans of each thread to its `Watched`.
struct ToThread;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for ToThread {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(watched) = WATCHED.with_borrow(Clone::clone) else { return };
        let span = context.span(id).unwrap();
        let mut seen = Seen {
            name: span.name(),
            parent: span.parent().map(|parent| parent.name()),
            ..Seen::default()
        };
        attributes.record(&mut Fields(&mut seen.fields));
        let mut spans = watched.0.lock().unwrap();
        span.extensions_mut().insert(Place(watched.clone(), spans.len()));
        spans.push(seen);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        change(id, &context, |seen| values.record(&mut Fields(&mut seen.fields)));
    }

    fn on_follows_from(&self, id: &Id, follows: &Id, context: Context<'_, S>) {
        let name = context.span(follows).unwrap().name();
        change(id, &context, |seen| seen.follows.push(name));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if let Some(span) = context.event_span(event) {
            let mut fields = BTreeMap::new();
            event.record(&mut Fields(&mut fields));
            change(&span.id(), &context, |seen| seen.events.push(fields));
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        change(&id, &context, |seen| seen.closed = true);
    }
}

fn change<S: Subscriber + for<'a> LookupSpan<'a>>(
    id: &Id,
    context: &Context<'_, S>,
    change: impl FnOnce(&mut Seen),
) {
    let span = context.span(id).unwrap();
    if let Some(Place(watched, at)) = span.extensions().get() {
        change(&mut watched.0.lock().unwrap()[*at]);
    }
}

struct Fields<'a>(&'a mut BTreeMap<&'static str, String>);

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}
