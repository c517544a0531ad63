# The image: one static program, the certificate authorities of Debian, and nothing else.
#
#   docker build --tag token-bucket-operator .                              (also podman, buildah)
#   docker buildx build --platform linux/amd64,linux/arm64 …                for other architectures; an old buildah
#                                                                         needs --build-arg BUILDPLATFORM=linux/amd64
#   docker build --build-arg BUILDER=… --build-arg RUNTIME=…                with base images of one's own
#
# BUILDER is a Debian with cargo, a C compiler, make and ca-certificates, and the C library as an archive (libc6-dev).
# What it lacks for another architecture than its own, it installs: that of Rust by rustup, the C compiler by apt.
ARG BUILDER=docker.io/library/rust:1.95-bookworm
ARG RUNTIME=scratch

# It runs as the machine that builds, whatever the image is for: to compile for another architecture takes minutes, to
# emulate one hours.
FROM --platform=${BUILDPLATFORM} ${BUILDER} AS build
# amd64 or arm64: set by the builder from --platform.
ARG TARGETARCH
WORKDIR /src
COPY . .
# Static, with the C library in it: the runtime image has none. The target is named so that build scripts and procedural
# macros, which cannot be static, are built as usual.
RUN set -eu; \
    native=$(rustc --version --verbose | sed -n 's/^host: //p'); \
    case ${TARGETARCH:-} in \
        '') target=$native ;; \
        amd64) target=x86_64-unknown-linux-gnu ;; \
        arm64) target=aarch64-unknown-linux-gnu ;; \
        *) echo "TARGETARCH is $TARGETARCH: build for amd64 or arm64" >&2; exit 1 ;; \
    esac; \
    if [ "$target" != "$native" ]; then \
        gnu=$(echo "$target" | sed 's/-unknown//'); \
        [ -d "$(rustc --print sysroot)/lib/rustlib/$target" ] || rustup target add "$target"; \
        command -v "$gnu-gcc" || { \
            apt-get update; \
            apt-get install --yes "gcc-$(echo "$gnu" | tr _ -)" "libc6-dev-$TARGETARCH-cross"; \
        }; \
        variable=$(echo "$target" | tr a-z- A-Z_); \
        export "CARGO_TARGET_${variable}_LINKER=$gnu-gcc" "CC_$(echo "$target" | tr - _)=$gnu-gcc"; \
    fi; \
    RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --target "$target"; \
    install -D "target/$target/release/token-bucket-operator" /out/token-bucket-operator; \
    install -D -m 644 /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ca-certificates.crt

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
