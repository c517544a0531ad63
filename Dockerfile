# The image: one static program, the certificate authorities of Debian, and nothing else.
#
#   docker build --tag token-bucket-operator .                              (also podman, buildah)
#   docker build --platform linux/arm64 …                                   for another architecture
#   docker build --build-arg BUILDER=… --build-arg RUNTIME=…                with base images of one's own
#
# BUILDER has cargo, a C compiler, make and ca-certificates, and the C library as an archive (Debian's libc6-dev).
ARG BUILDER=docker.io/library/rust:1.95-bookworm
ARG RUNTIME=scratch

FROM ${BUILDER} AS build
WORKDIR /src
COPY . .
# Static, with the C library in it: the runtime image has none. The target is named so that build scripts and procedural
# macros, which cannot be static, are built as usual.
RUN target=$(rustc --version --verbose | sed -n 's/^host: //p') \
    && RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --target "$target" \
    && install -D "target/$target/release/token-bucket-operator" /out/token-bucket-operator \
    && install -D -m 644 /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ca-certificates.crt

FROM ${RUNTIME}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="token-bucket-operator" \
      org.opencontainers.image.description="Shares rate limits between workers with token buckets in AMQP queues, refilled on schedule" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/ /
# A number: Kubernetes can only see of a number that it is not root.
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/token-bucket-operator"]
CMD ["run"]
