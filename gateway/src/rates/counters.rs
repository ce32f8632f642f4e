//! What is counted of sources that were beyond a limit, and how `metrics` shows it.

use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::Counter;

use super::lists::Entry;
use super::{Action, Limit, Watch};
use crate::metrics::{count, counters, gauges};
use crate::per_listener::PerListener;

/// Of one listener.
#[derive(Debug, Default)]
pub struct Counters([[Counter; Action::ALL.len()]; Limit::ALL.len()]);

impl Counters {
    pub(super) fn count(&self, limit: Limit, action: Action) {
        self.0[limit as usize][action as usize].inc();
    }
}

/// Those of all listeners, by name, and what they share.
#[derive(Debug, Default)]
pub struct Shown {
    listeners: PerListener<Counters>,
    watch: OnceLock<Arc<Watch>>,
}

impl Shown {
    /// The counters of a listener.
    pub fn of(&self, listener: &Arc<str>) -> Arc<Counters> {
        self.listeners.of(listener)
    }

    /// Shows this from here on; once.
    pub fn show(&self, watch: Arc<Watch>) {
        let _shown_already = self.watch.set(watch);
    }

    /// `/etc/tidegate/blocked.txt:12`.
    pub fn place(&self, entry: Entry) -> Option<String> {
        self.watch.get()?.lists.place(entry)
    }

    /// Writes all of it.
    pub(crate) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut rows = Vec::new();
        for (listener, of) in &self.listeners.all() {
            for (limit, by_action) in Limit::ALL.into_iter().zip(&of.0) {
                for (action, counter) in Action::ALL.into_iter().zip(by_action) {
                    // Most never happen; those that could are there from the first one on.
                    if counter.get() > 0 {
                        let labels = vec![
                            ("listener", listener.to_string()),
                            ("limit", limit.label().to_owned()),
                            ("action", action.label().to_owned()),
                        ];
                        rows.push((labels, counter.get()));
                    }
                }
            }
        }
        counters(
            encoder,
            (
                "source_limited",
                "Connections and requests of sources that were beyond a limit, by what was done",
            ),
            rows.into_iter(),
        )?;
        let Some(watch) = self.watch.get() else {
            return Ok(());
        };
        let one = |value: usize| std::iter::once((Vec::new(), count(value)));
        gauges(
            encoder,
            ("sources", "Sources that are remembered"),
            None,
            one(watch.table.count()),
        )?;
        counters(
            encoder,
            (
                "sources_forgotten",
                "Sources that had to make room for others",
            ),
            std::iter::once((Vec::new(), watch.table.forgotten())),
        )?;
        gauges(
            encoder,
            (
                "tarpitted",
                "Connections and requests that are held because their source is beyond a limit",
            ),
            None,
            one(watch.pit.count()),
        )?;
        gauges(
            encoder,
            ("source_list_ranges", "Address ranges of each list in use"),
            None,
            watch.lists.all().iter().map(|list| {
                (
                    vec![("file", list.path.display().to_string())],
                    count(list.len()),
                )
            }),
        )
    }
}
