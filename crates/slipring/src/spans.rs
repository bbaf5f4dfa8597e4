//! Spans for OpenTelemetry: each failover, and sampled commands, over OTLP/HTTP to one collector.
//!
//! ```text
//!   workers --CommandSpan--> bounded queue --\
//!   timelines --failovers that have ended-----> one request a second at most --> collector
//! ```
//! A collector that does not answer costs command spans, and delays those of failovers; nothing else waits for it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use async_trait::async_trait;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry::trace::{Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    IdGenerator as _, RandomIdGenerator, SpanData, SpanEvents, SpanExporter as _, SpanLinks,
};
use proxy_core::{CommandSpan, FailoverRecord, Field, TcpDial, Timeline};
use sentinel_watcher::Dial as _;
use tokio::sync::mpsc;

use crate::cli::Collector;

/// Command spans that may wait for the next request; more are dropped.
pub(crate) const QUEUE: usize = 1024;

const INTERVAL: Duration = Duration::from_secs(1);

/// A collector has so long for one request.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is read of a collector's answer.
const ANSWER_BYTES: usize = 64 << 10;

/// What a failover cost is known so long after its end.
const SETTLED: Duration = Duration::from_secs(3);

/// Sends spans, for as long as slipring runs.
pub(crate) struct Spans {
    exporter: SpanExporter,
    commands: mpsc::Receiver<CommandSpan>,
    timelines: Vec<(Arc<Timeline>, u64)>,
    ids: RandomIdGenerator,
    scope: InstrumentationScope,
    health: Health,
}

/// How the last request went: only a change is worth a line in the log.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Health {
    Unknown,
    Taken,
    Refused,
}

/// The way to the collector.
#[derive(Debug)]
struct Wire {
    dial: TcpDial,
    collector: Collector,
}

// === impl Spans ===

impl Spans {
    pub(crate) fn new(
        collector: Collector,
        commands: mpsc::Receiver<CommandSpan>,
        timelines: Vec<Arc<Timeline>>,
    ) -> anyhow::Result<Self> {
        let url = format!("http://{}{}", collector.address, collector.path);
        let wire = Wire {
            dial: TcpDial { timeout: PATIENCE },
            collector,
        };
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(wire)
            .with_endpoint(url)
            .with_protocol(Protocol::HttpBinary)
            .build()
            .context("--otlp-endpoint: no exporter")?;
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder()
            .with_service_name("slipring")
            .with_attribute(version);
        exporter.set_resource(&resource.build());
        Ok(Self {
            exporter,
            commands,
            timelines: timelines.into_iter().map(|timeline| (timeline, 0)).collect(),
            ids: RandomIdGenerator::default(),
            scope: InstrumentationScope::builder("slipring").build(),
            health: Health::Unknown,
        })
    }

    pub(crate) async fn run(mut self) {
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let mut batch = Vec::new();
            while batch.len() < QUEUE
                && let Ok(span) = self.commands.try_recv()
            {
                batch.push(self.command(&span));
            }
            let told = self.failovers(&mut batch);
            if batch.is_empty() {
                continue;
            }
            let sent = tokio::time::timeout(PATIENCE, self.exporter.export(batch)).await;
            let failure = match sent {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer within {PATIENCE:?}")),
            };
            if failure.is_none() {
                for ((_, known), newest) in self.timelines.iter_mut().zip(told) {
                    *known = newest;
                }
            }
            self.note(failure);
        }
    }

    fn note(&mut self, failure: Option<String>) {
        let health = if failure.is_some() {
            Health::Refused
        } else {
            Health::Taken
        };
        if std::mem::replace(&mut self.health, health) == health {
            return;
        }
        match failure {
            Some(error) => tracing::warn!(error, "--otlp-endpoint: the collector takes no spans"),
            None => tracing::info!("--otlp-endpoint: the collector takes spans"),
        }
    }

    /// Adds the failovers that have ended and were not told yet; the newest of each timeline.
    fn failovers(&self, batch: &mut Vec<SpanData>) -> Vec<u64> {
        let newest = |(timeline, known): &(Arc<Timeline>, u64)| {
            let mut newest = *known;
            for record in timeline.records().iter().rev() {
                let failover = &record.failover;
                let settled = failover
                    .end
                    .is_some_and(|(_, after)| failover.began.elapsed() > after + SETTLED);
                if settled && failover.number > *known {
                    batch.extend(self.failover(timeline.master(), record));
                    newest = newest.max(failover.number);
                }
            }
            newest
        };
        self.timelines.iter().map(newest).collect()
    }

    #[expect(clippy::disallowed_methods, reason = "for the eyes of an operator")]
    fn command(&self, span: &CommandSpan) -> SpanData {
        let ended = SystemTime::now() - span.ended.elapsed();
        let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let attributes = vec![
            KeyValue::new("db.system.name", "redis"),
            KeyValue::new("db.operation.name", span.command.to_ascii_uppercase()),
            KeyValue::new("slipring.master", span.master.to_string()),
            KeyValue::new("server.address", span.node.host.to_string()),
            KeyValue::new("server.port", i64::from(span.node.port)),
            KeyValue::new("slipring.request_bytes", number(span.request_bytes)),
            KeyValue::new("slipring.reply_bytes", number(span.reply_bytes)),
        ];
        let status = if span.failed {
            Status::error("the node answered an error")
        } else {
            Status::Unset
        };
        SpanData {
            span_kind: SpanKind::Client,
            name: span.command.to_ascii_uppercase().into(),
            status,
            attributes,
            ..self.span(self.ids.new_trace_id(), SpanId::INVALID, ended - span.took, ended)
        }
    }

    /// A failover, and in it the time in which commands waited.
    fn failover(&self, master: &str, record: &FailoverRecord) -> Vec<SpanData> {
        let trace = self.ids.new_trace_id();
        let ended = record.failover.end.map_or(Duration::ZERO, |(_, after)| after);
        let mut attributes = vec![KeyValue::new("slipring.master", master.to_owned())];
        let mut events = SpanEvents::default();
        for (name, field) in record.fields() {
            let key = format!("slipring.failover.{name}");
            match field {
                Field::Number(after) => {
                    if let Some(what) = name.strip_suffix("_ms")
                        && !matches!(what, "began_unix" | "held" | "ended")
                    {
                        let at = record.began + Duration::from_millis(after);
                        events.events.push(Event::new(what, at, Vec::new(), 0));
                    }
                    attributes.push(KeyValue::new(key, i64::try_from(after).unwrap_or(i64::MAX)));
                }
                Field::Text(text) => attributes.push(KeyValue::new(key, text)),
            }
        }
        let whole = SpanData {
            name: "failover".into(),
            attributes,
            events,
            ..self.span(trace, SpanId::INVALID, record.began, record.began + ended)
        };
        let held = record.failover.held().map(|held| SpanData {
            name: "hold".into(),
            ..self.span(
                trace,
                whole.span_context.span_id(),
                record.began,
                record.began + held,
            )
        });
        std::iter::once(whole).chain(held).collect()
    }

    fn span(&self, trace: TraceId, parent: SpanId, start_time: SystemTime, end_time: SystemTime) -> SpanData {
        let id = self.ids.new_span_id();
        SpanData {
            span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::default()),
            parent_span_id: parent,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: "".into(),
            start_time,
            end_time,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        }
    }
}

// === impl Wire ===

#[async_trait]
impl HttpClient for Wire {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let io = self.dial.dial(&self.collector.address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
        let (mut parts, body) = request.into_parts();
        parts.uri = self.collector.path.parse()?;
        parts
            .headers
            .insert(HOST, self.collector.address.to_string().parse()?);
        let exchange = async move {
            let response = sender
                .send_request(Request::from_parts(parts, Full::new(body)))
                .await?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_BYTES).collect().await?;
            Ok(Response::from_parts(parts, body.to_bytes()))
        };
        tokio::pin!(exchange);
        tokio::select! {
            biased;
            answer = &mut exchange => answer,
            _ = connection => exchange.await,
        }
    }
}
