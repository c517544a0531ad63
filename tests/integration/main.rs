//! The behaviour of the operator on a real API server and a real RabbitMQ: one module for each subject.

mod absence;
mod admission;
mod broker;
mod celery;
mod chart;
mod controller;
mod edits;
mod engine;
mod faults;
mod fixture;
mod gitops;
mod leadership;
mod ledgers;
mod missed;
mod monitoring;
mod page;
mod permissions;
mod quorum;
mod refills;
mod release;
mod support;
mod tls;
mod tools;
mod versions;
mod waiting;
mod writes;
