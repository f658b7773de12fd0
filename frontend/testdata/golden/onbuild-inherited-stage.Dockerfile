FROM triggers:1 AS first
FROM first
COPY --from=first /src /copied
